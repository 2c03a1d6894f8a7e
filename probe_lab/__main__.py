"""``python -m probe_lab``: the same as the command ``probe-lab``."""

from probe_lab.cli import main

if __name__ == "__main__":
    main()
