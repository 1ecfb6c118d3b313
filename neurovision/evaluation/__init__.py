"""Every number that the README prints comes from here."""
