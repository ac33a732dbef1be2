"""This machine's own resources: private folders, scratch that is removed with its owner, processes under limits."""
