"""What each family of models is: loading, blocks, token grids, schedulers, and shapes without weights."""
