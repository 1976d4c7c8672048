"""A model over very many images, by any number of processes that share nothing but the folder they write into."""
