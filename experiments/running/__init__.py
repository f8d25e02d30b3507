"""What a run is, where its record lies, and what is measured on it; shared by all studies."""
