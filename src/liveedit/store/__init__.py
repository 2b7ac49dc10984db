"""Stores of edits: durable, for many processes, with history.

    store       Store: the edits in a database, and changes of them
    pool        Pool: edits with their patch
    durable     DurablePool: a pool that a store keeps
    makers      Makers: the editors that made the edits of a store
    rows        the tensors of edits, from a store into memory
    browsing    the edits as they are listed, searched and paged
    exchange    edits as a file, and from one store into another
    upkeep      verify and compact a store
    database    SQLite and PostgreSQL: connections, transactions, errors
    schema      the tables; migrations/ brings older ones up to date
    tensors     the tensors of an edit as bytes
    edit        Edit: what is said about an edit
    conflicts   edits that contradict each other
    listing     folders of edits, with pictures: the form before stores

Importing this package loads nothing heavy.
"""
