"""Numbers and sizes that change from call to call: which ones do, and what stands in for them during a recording."""
