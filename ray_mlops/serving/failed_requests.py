def read_failures(files, path): return []
