"""Work done in a child of the test's own process, which can be killed."""

import gc
import os


def in_a_child(work):
    """The process that does it, forked here."""
    gc.collect()  # a child that frees what a decoder's threads worked on waits for threads it has not
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)
