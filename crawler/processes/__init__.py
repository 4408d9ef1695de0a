"""One crawl in several processes of one machine (`--processes`).

    parent    owns the frontier, the pipelines and the outputs: `parent`, and one `member` for each child
       ▲
       │      a socket each, `frames`
       ▼
    children  fetch, parse and run the callbacks: `child`, with the engine over a `SharedFrontier`

What the pages of a child caused comes to the parent as epochs, and takes effect there as if they were its own.
"""
