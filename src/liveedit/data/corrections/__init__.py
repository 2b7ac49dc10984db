"""Corrections from files: JSON, CSV, and what Langfuse and Dify export.

:func:`read_corrections` reads them; the fields of a row are in
:mod:`~liveedit.data.corrections.read`, the exports in :mod:`~liveedit.data.corrections.exports`.
"""

from liveedit.data.corrections.read import BadRow, Correction, Corrections, read_corrections

__all__ = ["BadRow", "Correction", "Corrections", "read_corrections"]
