"""Documents cut into blocks of whole sentences, as full as they go."""

import numpy as np

from jbert.data.corpus import Corpus


def cut_blocks(corpus: Corpus, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths, in tokens, of blocks that cover the corpus once.

    A block has at most `room` tokens, of one document. A sentence that is longer is cut where a
    block is full, and what is left of it goes on in the next. All documents take the step to their
    next block at once.
    """
    bounds = np.asarray(corpus.sentences)
    begin, last = bounds[corpus.begins], bounds[corpus.ends]
    starts, lengths = [], []
    while len(begin):
        full = begin + room
        end = np.minimum(bounds[np.searchsorted(bounds, full, side="right") - 1], last)
        end = np.where(end > begin, end, full)
        starts.append(begin)
        lengths.append((end - begin).astype(np.int32))
        going = end < last
        begin, last = end[going], last[going]
    start = np.concatenate(starts)
    order = np.argsort(start)
    return start[order], np.concatenate(lengths)[order]
