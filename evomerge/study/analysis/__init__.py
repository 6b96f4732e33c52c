"""Analyses a finished run: landscape, barriers, importances, winner's curse, forecasts."""
