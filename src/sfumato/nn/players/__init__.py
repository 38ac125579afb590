"""Networks of games: generators, and the critics that judge them."""
