"""Eval sets, scoring, subsets and estimates. Fitness never sees a genome.

items          questions with stable ids, split into search and holdout
harness        tasks of the LM Evaluation Harness as eval sets, and its verdicts
rows           rows of files, folders and a hub's data sets
templates      rows → items
words          texts as words, for what is written and not how
split          sides by a hash of what is asked; near duplicates
overlap        items that training data hold
metrics        what can be measured on an item
evaluator      the contract: a live model and items in, one response an item out
scorer         one scorer for every kind of item
encoding       text to tokens, as the LM Evaluation Harness does it
tree           one row an item, all choices behind the shared context
loglikelihood  multiple choice
generation     greedy answers, exact match
failures       which errors are a candidate's failure
subset         which items a generation is asked
estimate       means with standard errors, intervals, paired differences
objectives     a run's objectives and guards over its eval sets
"""
