"""Whether what is served is still what the release was made for: drift, falls, and the alarm."""
