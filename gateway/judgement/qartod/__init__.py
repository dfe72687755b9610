"""Tests of single channels after the QARTOD manuals, over whole series.

One file a family: `ranges`, `seasons`, `motion`, `stillness`, `timing`, `siblings`; `flags` makes one flag of several.
Reading by reading, `gateway.judgement.quality` judges range, rate, flat line and staleness by rules of its own.

Source: U.S. IOOS, Manuals for Real-Time Quality Control (QARTOD), tests 1 to 10 (time gap, syntax, location, gross
range, climatology, spike, rate of change, flat line, multi-variate, attenuated signal), and QARTOD Project Plan for the
flags. Where a manual leaves an edge open (the ends of a series, a missing neighbour) the tests follow what `ioos_qc`
does, so that its vectors hold.
"""
