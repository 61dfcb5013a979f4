"""Work done in a child of the test's own process, which can be killed."""

import gc
import os

from modeling_dualspace.training_data import TrainingData


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


class Killed(TrainingData):
    """The same data; the process is asked to stop as it takes its nth batch."""

    def __init__(self, data, step):
        self.__dict__ |= data.__dict__
        self.left = step

    def joined(self):
        return Killed(super().joined(), self.left)

    def steps(self, batch_size, seed):
        epochs = super().steps(batch_size, seed)
        walk = epochs.epoch

        def counted(number, skip=0):
            for one in walk(number, skip):
                self.left -= 1
                if not self.left:
                    os._exit(9)  # without a word, as by kill -9
                yield one

        epochs.epoch = counted
        return epochs
