"""`python -m kdedge`: the same program as `kdedge`."""

from kdedge.cli import main

if __name__ == "__main__":
    main()
