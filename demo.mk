# make demo: the main job. Every step makes one file, which is written last and in one piece. An interrupted run goes on
# with the steps that have no file yet, and a training goes on from its last checkpoint (one every half minute). A
# finished run prints its table again; `make clean-demo` starts over.
# Two steps run beside each other: the diffusion model on the screen, the others into outputs/demo/logs/. Files behind
# a | only decide the order of the steps, so that both of these lanes end together.
DEMO := outputs/demo
SHARDS := assets/small/shards
RUN := $(PY) -W ignore main.py
# weights to start from: a committed file, then the one that the step is made from
FROM = --model.init_args.initial_weights '[assets/small/weights/$(1).safetensors, $(2)]'
# optimizer steps of the four trainings
STEPS_1 ?= 50
STEPS_2 ?= 30
STEPS_STATIC ?= 40
STEPS_DYNAMIC ?= 20
# held-out scenes that are scored: animated objects, each of the other sources, rooms for reconstruction
OBJECTS ?= 16
OTHERS ?= 4
ROOMS ?= 16
SCENE ?= 6
JOBS ?= 2

.PHONY: demo shipped clean-demo
demo: $(VENV)/.installed
	@OMP_NUM_THREADS=$$(( ($(CORES) + $(JOBS) - 1) / $(JOBS) )) NUMBA_NUM_THREADS=$$(( ($(CORES) + $(JOBS) - 1) / $(JOBS) )) \
	    $(MAKE) --no-print-directory --jobs=$(JOBS) $(DEMO)/metrics.json
	@$(PY) -m scene4d.evaluation.report --output $(DEMO)/metrics.json --made $(DEMO)/grid.mp4 $(DEMO)/orbit.mp4 \
	    $(DEMO)/viewer.html $(DEMO)/frames

clean-demo:
	rm -rf $(DEMO)

$(DEMO)/started: | $(VENV)/.installed
	@mkdir -p $(DEMO)/logs
	@date +%s > $@

# a step beside others prints one line on the screen and the rest into its log, which is shown if it fails
BESIDE = echo "$@: see $(DEMO)/logs/$(subst /,_,$(@:$(DEMO)/%=%)).log" && $(RUN)
INTO_LOG = > $(DEMO)/logs/$(subst /,_,$(@:$(DEMO)/%=%)).log 2>&1 || \
    { tail -n 30 $(DEMO)/logs/$(subst /,_,$(@:$(DEMO)/%=%)).log; exit 1; }

# the two videos a user would bring: what moves, and what it looks like from elsewhere
$(DEMO)/references/freeze_time.mp4: $(DEMO)/started
	$(PY) -m preparation.example_videos --shard $(SHARDS)/objects-val-000000.tar --index $(SCENE) \
	    --output $(DEMO)/references

# 1. the 4D video diffusion: the self-attention of the base video model, through both durations
$(DEMO)/diffusion_stage1/diffusion.safetensors: $(DEMO)/started
	$(RUN) fit --config configs/small/diffusion_stage1.yaml --config configs/demo/training.yaml --ckpt_path last \
	    --trainer.default_root_dir $(@D) --trainer.max_steps $(STEPS_1)
$(DEMO)/diffusion_stage2/diffusion.safetensors: $(DEMO)/diffusion_stage1/diffusion.safetensors
	$(RUN) fit --config configs/small/diffusion_stage2.yaml --ckpt_path last $(call FROM,base_video,$<) \
	    --trainer.default_root_dir $(@D) --trainer.max_steps $(STEPS_2) \
	    --trainer.val_check_interval $(STEPS_2) --data.init_args.val_batch_size 1

# 2. its scores on held-out scenes, beside those of the committed weights
SCORE_GRIDS = validate --config configs/small/shipped_diffusion.yaml --config configs/evaluation/diffusion.yaml \
    --trainer.default_root_dir $(@D) --data.init_args.val_scenes \
    '{objects: $(OBJECTS), physics: $(OTHERS), homography: $(OTHERS), static: $(OTHERS)}'
$(DEMO)/scores/diffusion.json: $(DEMO)/diffusion_stage2/diffusion.safetensors | $(DEMO)/grid.safetensors
	$(RUN) $(SCORE_GRIDS) $(call FROM,base_video,$<)
$(DEMO)/shipped/diffusion.json: $(DEMO)/started | $(DEMO)/reconstruction_dynamic/reconstruction.safetensors
	@$(BESIDE) $(SCORE_GRIDS) --model.init_args.evaluation.baselines false $(INTO_LOG)

# 3. from the two videos to the whole view x time grid
GENERATE = predict --config configs/small/shipped_diffusion.yaml --config configs/evaluation/predict_grid.yaml \
    --trainer.default_root_dir $(@D) --data.init_args.fixed_view $(DEMO)/references/fixed_view.mp4 \
    --data.init_args.freeze_time $(DEMO)/references/freeze_time.mp4
$(DEMO)/grid.safetensors: $(DEMO)/diffusion_stage2/diffusion.safetensors $(DEMO)/references/freeze_time.mp4
	$(RUN) $(GENERATE) $(call FROM,base_video,$<)

# 4. the reconstructor: its static stage, then its dynamic stage
$(DEMO)/reconstruction_static/reconstruction_static.safetensors: $(DEMO)/started
	@$(BESIDE) fit --config configs/small/reconstruction_static.yaml --config configs/demo/reconstruction.yaml \
	    --data configs/data/small_reconstruction_static.yaml --ckpt_path last \
	    --trainer.default_root_dir $(@D) --trainer.max_steps $(STEPS_STATIC) $(INTO_LOG)
$(DEMO)/reconstruction_dynamic/reconstruction.safetensors: $(DEMO)/reconstruction_static/reconstruction_static.safetensors
	@$(BESIDE) fit --config configs/small/reconstruction_dynamic.yaml --config configs/demo/reconstruction.yaml \
	    --data configs/data/small_reconstruction_dynamic.yaml --ckpt_path last $(call FROM,geometry,$<) \
	    --trainer.default_root_dir $(@D) --trainer.max_steps $(STEPS_DYNAMIC) $(INTO_LOG)

SCORE_VIEWS = validate --config configs/small/shipped_reconstruction.yaml \
    --config configs/evaluation/reconstruction.yaml --trainer.default_root_dir $(@D) --data.init_args.val_scenes $(ROOMS)
$(DEMO)/scores/reconstruction.json: $(DEMO)/reconstruction_dynamic/reconstruction.safetensors | $(DEMO)/shipped/diffusion.json
	@$(BESIDE) $(SCORE_VIEWS) $(call FROM,geometry,$<) $(INTO_LOG)
$(DEMO)/shipped/reconstruction.json: $(DEMO)/started | $(DEMO)/shipped/diffusion.json
	@$(BESIDE) $(SCORE_VIEWS) $(INTO_LOG)

# 5. from the generated grid to cameras and the Gaussians of every timestep
RECONSTRUCT = predict --config configs/small/shipped_reconstruction.yaml \
    --config configs/evaluation/predict_gaussians.yaml --trainer.default_root_dir $(@D) --data.init_args.paths '[$<]'
$(DEMO)/viewer.html: $(DEMO)/grid.safetensors $(DEMO)/reconstruction_dynamic/reconstruction.safetensors
	@$(BESIDE) $(RECONSTRUCT) $(call FROM,geometry,$(word 2,$^)) $(INTO_LOG)

# 6. all scores beside their baselines
$(DEMO)/metrics.json: $(DEMO)/scores/diffusion.json $(DEMO)/viewer.html $(DEMO)/scores/reconstruction.json \
    $(DEMO)/shipped/diffusion.json $(DEMO)/shipped/reconstruction.json
	@$(PY) -m scene4d.evaluation.report --demo $(DEMO)/scores/diffusion.json $(DEMO)/scores/reconstruction.json \
	    --shipped $(DEMO)/shipped/diffusion.json $(DEMO)/shipped/reconstruction.json \
	    --started $$(cat $(DEMO)/started) --output $@ > /dev/null

# make shipped: the same scene by the committed weights, which trained for longer; no training, about two minutes
shipped: $(DEMO)/shipped/viewer.html
$(DEMO)/shipped/grid.safetensors: $(DEMO)/references/freeze_time.mp4
	$(RUN) $(GENERATE)
$(DEMO)/shipped/viewer.html: $(DEMO)/shipped/grid.safetensors
	$(RUN) $(RECONSTRUCT)
