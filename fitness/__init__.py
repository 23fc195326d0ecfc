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
generation     greedy answers, and all metrics of one answer
decoding       many prompts at a time: shared beginnings once, rows that are done leave
extract        what of an answer is compared
numerals       numbers in running text
answers        extracted answers against references
answer_metrics metrics of an answer, cheap ones always, others where asked
refusal        refusals by their phrases
language       which language a text is in
judge          answers judged by a model
sandbox        code that models wrote, run where it can do little harm
requirements   what metrics need, checked before a run
failures       which errors are a candidate's failure
subset         which items a generation is asked
estimate       means with standard errors, intervals, paired differences
objectives     a run's objectives and guards over its eval sets
"""
