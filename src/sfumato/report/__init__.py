"""What a person looks at: grids of pictures, curves, and the one-page report of a run."""
