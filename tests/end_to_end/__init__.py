"""What a user sees, from end to end: command lines, printed forms and files. Frozen.

No test here imports anything of lrd_harness but the entry point of its command, nor any other
helper of the tests, so that the package may be rebuilt inside without a change here.
"""
