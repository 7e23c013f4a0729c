"""Reviews labelled photos: wrong labels, copies, outliers, confused classes, and what more photos would bring."""
