"""Other structures than the models had: smaller models from one checkpoint, mixtures of experts from dense models.

`usage` watches a model on a user's items, `grouping` decides which experts belong together, `combining` makes one of
several, `layers` fuses layers, `compress` puts these together, and `directory` writes what comes out.

`targets` knows which mixture a dense family becomes, `gates` gives the rows of its routers, `expansion` breeds experts,
`blueprint` says what is built, `assembly` writes its weights, and `moe` puts these together.
"""
