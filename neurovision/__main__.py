"""``python -m neurovision`` is the ``neurovision`` command."""

from neurovision.cli import main

if __name__ == "__main__":
    main()
