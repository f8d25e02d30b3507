"""The compression study: pruning, quantization and float formats (Tran et al. 2022)."""
