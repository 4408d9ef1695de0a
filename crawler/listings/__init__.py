"""Documents that list a site's pages: sitemaps and feeds, read as they come."""
