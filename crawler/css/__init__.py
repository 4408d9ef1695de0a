"""CSS selectors with parsel's pseudo-elements, over lexbor's tree.

`reader` turns a query into a plan, once; `plan` runs it on one page after another. Nothing here knows what becomes of
the nodes and strings that are found: that is `crawler.selector`.
"""
