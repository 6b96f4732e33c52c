"""What a finished run shows: landscape, barriers, importances, winner's curse, forecasts."""
