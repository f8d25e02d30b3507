"""UTKFace for TensorFlow Datasets, which wants a package for each data set."""
