"""Living on Ray: start or join a cluster, its budget, deadlines, and the store's files.

Read in this order: ``environment`` (settings), ``ports``, ``processes``, ``record``, ``head`` (the process),
``lifecycle`` (start, stop), ``cluster`` (``connect``), then ``budget``, ``deadline``, ``doctor`` and ``files``.
"""
