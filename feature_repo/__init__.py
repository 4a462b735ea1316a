"""Features of a shop: their declaration, their jobs, and the contract that both sides share."""
