"""One parser for each way in which a data set is stored: what is known of its images, before any is decoded."""
