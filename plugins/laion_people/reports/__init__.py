"""What people read about the data: funnels, drift, costs, the HTML report."""
