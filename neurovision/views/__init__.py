"""What a person reads: pictures, reports and the web page, all drawn from Findings."""
