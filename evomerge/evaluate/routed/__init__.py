"""Models that weigh low-rank changes as they read; the file goes along with exports."""
