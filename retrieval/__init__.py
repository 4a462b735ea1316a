"""Finding candidates: towers, other candidate models, their merge and the index. Plain torch."""
