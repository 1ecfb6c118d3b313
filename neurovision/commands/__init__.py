"""What ``neurovision`` takes: one file a group of commands, thin, with every heavy import inside its command."""
