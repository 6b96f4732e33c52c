"""Models that choose among low-rank changes for each token; the file goes along with exports."""
