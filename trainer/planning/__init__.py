"""Planning runs on machines that need not be here: what tables take, and what a step sends."""
