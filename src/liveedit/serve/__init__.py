"""The HTTP server: answers in OpenAI's form, with the edits of a store, and edits over HTTP.

    app         the application: routes, life time, headers
    settings    limits and rights of a server
    chat        /v1/chat/completions, /v1/completions, /v1/models
    edits       /v1/edits
    checking    /v1/edits/check
    engine      answers waiting requests together, several batches at a time
    turns       which of these goes on
    generation  answers to one batch, each row with its own limits
    sampling    a row's choice of the next token
    growing     the text of a row while it grows: what may be sent, and where it stops
    hits        keeps which edits fired
    images      pictures in requests; fetching: from other hosts
    arriving    requests have to arrive in time
    gate        what every request passes: rights, origin, request id, headers
    problems    errors in OpenAI's form
    invalid     what is said of requests that are not as described
    metrics     counts for Prometheus
    reference   /docs, which needs no outside resource

Importing this package loads nothing heavy.
"""
