"""`python -m inpaint_ops.worker`."""

from inpaint_ops.worker import main

if __name__ == "__main__":
    main()
