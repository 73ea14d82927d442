"""Rows: sources, snapshots, the data contract, splits, features, and the reference that drift is measured against.

In the order of the data: ``source`` (over ``readers`` and ``source_files``), ``snapshot`` (over ``manifest``),
``schema`` (over ``contract`` and ``inspection``), ``split``, ``features`` (over ``columns``, ``values``,
``inputs``, ``statistics_pass``, ``fitting``, ``encoders`` and ``rows``), ``target``, ``profile`` (over
``reference``). What runs on Ray Data goes through ``distributed``; ``source``, ``snapshot``, ``schema`` and
``profile`` import it, everything else is pure.
"""
