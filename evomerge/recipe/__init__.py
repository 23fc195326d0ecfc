"""What a merged model is, as data: schema, text, mergekit."""
