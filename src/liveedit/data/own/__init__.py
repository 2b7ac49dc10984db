"""A benchmark of one's own: made from a file of corrections, kept in the user's data folder.

=============  ===================================================================================
module         what it does
=============  ===================================================================================
``items``      corrections to items: which are the same thing, the same fact, the same question
``splits``     groups of what has anything in common, and parts made of groups
``parts``      items to train, val and test without leaks, and which stay unedited
``benchmarks`` adds, lists, reads, checks and removes benchmarks in the data folder
``cases``      items to cases, with the probes of :mod:`liveedit.data.published.mmedit`
=============  ===================================================================================
"""
