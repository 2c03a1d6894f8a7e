"""Tables and figures of the two papers in their layout, published numbers beside those of a sweep.

Each exhibit is a function from one swept experiment to a ``Section``. The published half holds what
``report/paper_results.yaml`` has and nothing else; what it lacks, the page says.
"""

from probe_lab.report.papers.exhibit import EXHIBITS, build_exhibit

__all__ = ["EXHIBITS", "build_exhibit"]
