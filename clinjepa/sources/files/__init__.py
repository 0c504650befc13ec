"""Text and CSV files as bytes, rows and batches: byte-order marks, line ends, quotes, gzip, and errors that name file and column."""
