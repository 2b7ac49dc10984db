"""Declarations of everything that an evaluation measures, each in one place.

:mod:`~liveedit.measures.metrics` names the kinds of probes, :mod:`~liveedit.measures.scores` the
scores of a probe, :mod:`~liveedit.measures.costs` times and sizes, and
:mod:`~liveedit.measures.protocols` the orders in which cases are edited and evaluated. The
evaluation computes what is declared here and writes it into the records; the report reads it from
there. Whatever is added to one of the tuples at the ends of these files is recorded, reported and
documented. Nothing here imports torch.
"""
