# Tests that run programs and scripts: the layer check, the configurations, the reference models, a small training run, the
# installed package. Those that start ranks run alone and have the label mpi.

find_package(Python3 REQUIRED COMPONENTS Interpreter)

set(environment OMPI_MCA_mpi_yield_when_idle=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  XDG_CACHE_HOME=${CMAKE_CURRENT_BINARY_DIR}/cache)
set(mpirun ${MPIEXEC_EXECUTABLE} --oversubscribe --bind-to none ${MPIEXEC_NUMPROC_FLAG})

# plimsoll_program_test(NAME COMMAND … [LABELS label…] [TIMEOUT s] [SERIAL])
function(plimsoll_program_test name)
  cmake_parse_arguments(ARG "SERIAL" "TIMEOUT" "COMMAND;LABELS" ${ARGN})
  add_test(NAME ${name} COMMAND ${ARG_COMMAND})
  set_tests_properties(${name} PROPERTIES ENVIRONMENT "${environment}" LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
  if(ARG_SERIAL)
    set_tests_properties(${name} PROPERTIES RUN_SERIAL ON)
  endif()
endfunction()

# The house: who includes whom, and every header compiles alone.
plimsoll_program_test(layers COMMAND Python3::Interpreter ${PROJECT_SOURCE_DIR}/scripts/layers.py LABELS unit TIMEOUT 60)
plimsoll_program_test(layers_self_test COMMAND Python3::Interpreter ${PROJECT_SOURCE_DIR}/scripts/layers.py --self-test
  LABELS unit TIMEOUT 60)
find_program(PLIMSOLL_CLANG_FORMAT clang-format)
if(PLIMSOLL_CLANG_FORMAT)
  plimsoll_program_test(format_check COMMAND ${PROJECT_SOURCE_DIR}/scripts/format.sh --check LABELS unit quick TIMEOUT 120)
endif()
plimsoll_program_test(headers COMMAND ${CMAKE_COMMAND} --build ${PROJECT_BINARY_DIR} --target all_verify_interface_header_sets
  LABELS house TIMEOUT 900 SERIAL)

# Every configuration plans; the plan is replayed by the independent checker.
file(GLOB configs CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/configs/*.yaml)
foreach(config IN LISTS configs)
  get_filename_component(name ${config} NAME_WE)
  plimsoll_program_test(plan.${name} COMMAND plimsoll plan ${config} --json --verify LABELS unit TIMEOUT 120)
  plimsoll_program_test(plan.${name}.4_ranks COMMAND plimsoll plan ${config} --ranks 4 --json --verify LABELS unit TIMEOUT 120)
endforeach()

# So does every configuration on H200s that are not here, with as many ranks as its file names, or four.
file(GLOB large_configs CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/configs/large/*.yaml)
foreach(config IN LISTS configs large_configs)
  get_filename_component(name ${config} NAME_WLE)
  file(STRINGS ${config} named_ranks REGEX "plan .* --ranks [0-9]+ --cluster" LIMIT_COUNT 1)
  set(ranks 4)
  set(settings --set device=cuda)
  file(STRINGS ${config} for_gpus REGEX "^device: cuda" LIMIT_COUNT 1)
  if(named_ranks)
    string(REGEX REPLACE ".* --ranks ([0-9]+) .*" "\\1" ranks "${named_ranks}")
  elseif(NOT for_gpus)  # budgets of the others are for CPUs
    list(APPEND settings --set "memory.budget=16 GiB")
  endif()
  plimsoll_program_test(plan.${name}.h200
    COMMAND plimsoll plan ${config} --ranks ${ranks} --cluster ${PROJECT_SOURCE_DIR}/configs/clusters/h200.yaml ${settings}
      --json --verify
    LABELS unit cuda TIMEOUT 300)
endforeach()

# Models that are too large for any machine here, on the ranks and clusters that they name.
plimsoll_program_test(plan.large
  COMMAND Python3::Interpreter ${PROJECT_SOURCE_DIR}/scripts/bench_plans.py --program $<TARGET_FILE:plimsoll> --verify
    --out=
  LABELS unit TIMEOUT 300)

# Reference models: ours, and those of PLIMSOLL_SHARED (default ../shared), looked for when the test runs; what
# golden_check refuses, by name.
file(GLOB goldens CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/golden/*/golden.json)
foreach(json IN LISTS goldens)
  get_filename_component(folder ${json} DIRECTORY)
  get_filename_component(name ${folder} NAME)
  plimsoll_program_test(golden.${name} COMMAND golden_check ${folder} LABELS unit TIMEOUT 120)
  plimsoll_program_test(golden.${name}.2_ranks COMMAND ${mpirun} 2 $<TARGET_FILE:golden_check> ${folder}
    LABELS mpi TIMEOUT 120 SERIAL)
  foreach(precision IN ITEMS bf16 fp16 fp8)
    plimsoll_program_test(golden.${name}.${precision} COMMAND golden_check --precision=${precision} ${folder}
      LABELS unit TIMEOUT 120)
  endforeach()
endforeach()
# The same references on meshes: what tensor parallelism, pipelines and ZeRO compute is what PyTorch computes.
foreach(case IN ITEMS "1:--zero=2" "1:--zero=3" "2:--tensor=2 --zero=2" "2:--pipeline=2 --zero=3" "2:--tensor=2" "2:--pipeline=2" "4:--pipeline=2 --zero=1" "4:--pipeline=2 --zero=3" "4:--tensor=2 --pipeline=2" "2:--zero=1" "2:--zero=2" "2:--zero=3" "4:--tensor=2 --zero=1" "4:--tensor=2 --zero=3" "2:--precision=bf16" "2:--precision=fp16 --zero=3" "2:--precision=bf16 --tensor=2" "2:--precision=bf16 --pipeline=2" "4:--precision=bf16 --tensor=2 --zero=2")
  string(REGEX MATCH "^([0-9]+):(.*)$" _ "${case}")
  set(ranks ${CMAKE_MATCH_1})
  separate_arguments(options UNIX_COMMAND "${CMAKE_MATCH_2}")
  string(REGEX REPLACE "[^a-z0-9]+" "_" label "${CMAKE_MATCH_2}")
  foreach(model IN ITEMS gpt2_erf qwen3_tied)
    plimsoll_program_test(golden.${model}.${ranks}_ranks${label}
      COMMAND ${mpirun} ${ranks} $<TARGET_FILE:golden_check> ${options} ${CMAKE_CURRENT_SOURCE_DIR}/golden/${model}
      LABELS mpi unit TIMEOUT 120 SERIAL)
  endforeach()
endforeach()
set(golden_shared Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/programs/golden_shared.py ${PROJECT_SOURCE_DIR}/../shared)
plimsoll_program_test(golden.shared COMMAND ${golden_shared} $<TARGET_FILE:golden_check> LABELS unit TIMEOUT 240)
foreach(precision IN ITEMS bf16 fp16 fp8)
  plimsoll_program_test(golden.shared.${precision} COMMAND ${golden_shared} $<TARGET_FILE:golden_check>
    --precision=${precision} LABELS unit TIMEOUT 240)
endforeach()
plimsoll_program_test(golden.shared.2_ranks COMMAND ${golden_shared} ${mpirun} 2 $<TARGET_FILE:golden_check>
  LABELS mpi TIMEOUT 240 SERIAL)
set_tests_properties(golden.shared golden.shared.bf16 golden.shared.fp16 golden.shared.fp8 golden.shared.2_ranks PROPERTIES SKIP_RETURN_CODE 77)
plimsoll_program_test(golden.refusals
  COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/programs/golden_refusals.py $<TARGET_FILE:golden_check>
    ${CMAKE_CURRENT_SOURCE_DIR}/golden/gpt2_erf ${CMAKE_CURRENT_SOURCE_DIR}/golden/llama_linear_rope
    ${CMAKE_CURRENT_BINARY_DIR}/golden_refusals LABELS unit TIMEOUT 240)

# The collectives over MPI: the suite that the unit tests run over self and local.
add_executable(mpi_collectives ${CMAKE_CURRENT_SOURCE_DIR}/comm/mpi_collectives.cpp)
target_link_libraries(mpi_collectives PRIVATE plimsoll::launch)
foreach(ranks IN ITEMS 1 2 4)
  plimsoll_program_test(mpi_collectives.${ranks}_ranks COMMAND ${mpirun} ${ranks} $<TARGET_FILE:mpi_collectives>
    LABELS mpi TIMEOUT 120 SERIAL)
endforeach()

# Meshes of processes train as one rank; tests/parallel has the whole matrix, with ranks as threads. Few words here are many meshes:
# a third of them is in the default run.
add_executable(mpi_meshes ${CMAKE_CURRENT_SOURCE_DIR}/parallel/mpi_meshes.cpp)
target_link_libraries(mpi_meshes PRIVATE plimsoll_test_support)
function(plimsoll_mesh_test label ranks)
  string(JOIN "_" name ${ARGN})
  string(REGEX REPLACE "[=,]" "" name "${name}")
  plimsoll_program_test(mpi_meshes.${ranks}_ranks.${name} COMMAND ${mpirun} ${ranks} $<TARGET_FILE:mpi_meshes> ${ARGN}
    LABELS mpi ${label} TIMEOUT 120 SERIAL)
endfunction()
plimsoll_mesh_test(unit 2 gpt2 data=2 zero=2)
plimsoll_mesh_test(unit 2 gpt2 tensor=2 sequence)
plimsoll_mesh_test(unit 2 gpt2 pipeline=2 schedule=1f1b)
plimsoll_mesh_test(unit 2 llama pipeline=2 schedule=interleaved)
plimsoll_mesh_test(unit 4 gpt2 data=2 tensor=2 zero=3 sequence)
plimsoll_mesh_test(unit 4 gpt2 data=2 pipeline=2 zero=1 schedule=zb-h1)
plimsoll_mesh_test(unit 4 gpt2 data=2 pipeline=2 zero=3 schedule=1f1b)
plimsoll_mesh_test(unit 4 gpt2 pipeline=2 tensor=2 schedule=1f1b)
plimsoll_mesh_test(unit 3 llama tensor=3 sequence)
plimsoll_mesh_test(unit 3 gpt2 data=3 zero=3 state=1,5,2)
plimsoll_mesh_test(slow 2 llama data=2 zero=1)
plimsoll_mesh_test(slow 2 llama data=2 zero=3)
plimsoll_mesh_test(slow 2 llama pipeline=2 schedule=zb-h1)
plimsoll_mesh_test(slow 3 gpt2 pipeline=3 schedule=gpipe)
plimsoll_mesh_test(slow 3 llama data=3 zero=2)
plimsoll_mesh_test(slow 4 gpt2 tensor=4 sequence)
plimsoll_mesh_test(slow 4 llama data=4 zero=3 shards=2)
plimsoll_mesh_test(slow 4 llama pipeline=4 schedule=interleaved)
plimsoll_mesh_test(slow 5 gpt2 pipeline=5 schedule=1f1b)
plimsoll_mesh_test(slow 6 llama tensor=6)
plimsoll_mesh_test(slow 6 llama pipeline=2 tensor=3 sequence schedule=zb-h1)
plimsoll_mesh_test(slow 8 gpt2 data=2 tensor=4 zero=2 sequence)
plimsoll_mesh_test(slow 8 gpt2 data=2 pipeline=2 tensor=2 zero=1 sequence schedule=interleaved)
plimsoll_mesh_test(slow 8 gpt2 data=4 pipeline=2 zero=1 shards=2 schedule=1f1b)
plimsoll_mesh_test(slow 8 gpt2 data=2 pipeline=2 tensor=2 zero=2 sequence schedule=zb-h1)
plimsoll_mesh_test(slow 8 gpt2 pipeline=8 schedule=zb-h1)

# Two stages as a user meets them: under every schedule, what is planned for them, and their checkpoints on other meshes.
foreach(case IN ITEMS schedules plans checkpoint)
  plimsoll_program_test(pipeline_run.${case}
    COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/programs/pipeline_run.py ${case} $<TARGET_FILE:plimsoll>
      ${CMAKE_CURRENT_BINARY_DIR}/pipeline_run_${case} -- ${mpirun} 2
    LABELS mpi TIMEOUT 180 SERIAL)
endforeach()

# Replicas with other numbers of micro-batches: as listed, by measured speed, and with a rank that shares its core.
foreach(case IN ITEMS lists auto slow)
  set(label unit)
  if(case STREQUAL slow)
    set(label slow)
  endif()
  plimsoll_program_test(shares_run.${case}
    COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/programs/shares_run.py ${case} $<TARGET_FILE:plimsoll>
      ${PROJECT_SOURCE_DIR}/scripts ${CMAKE_CURRENT_BINARY_DIR}/shares_run_${case} -- ${mpirun}
    LABELS mpi ${label} TIMEOUT 300 SERIAL)
endforeach()
set_tests_properties(shares_run.slow PROPERTIES SKIP_RETURN_CODE 77)

# Ranks with other budgets and other parts of what ZeRO divides.
plimsoll_program_test(state_run
  COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/programs/state_run.py $<TARGET_FILE:plimsoll>
    ${CMAKE_CURRENT_BINARY_DIR}/state_run -- ${mpirun} 2
  LABELS mpi unit TIMEOUT 180 SERIAL)

# A run that follows a written plan.
plimsoll_program_test(plan_run
  COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/programs/plan_run.py $<TARGET_FILE:plimsoll>
    ${PROJECT_SOURCE_DIR}/configs/clusters/cpu.yaml ${CMAKE_CURRENT_BINARY_DIR}/plan_run -- ${mpirun}
  LABELS mpi unit TIMEOUT 600 SERIAL)

# Communication beside compute, seen in the traces of two ranks over a slow link; where one can be made.
plimsoll_program_test(overlap_run
  COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/programs/overlap_run.py $<TARGET_FILE:plimsoll>
    ${PROJECT_SOURCE_DIR}/scripts ${CMAKE_CURRENT_BINARY_DIR}/overlap_run
  LABELS mpi slow TIMEOUT 300 SERIAL)
set_tests_properties(overlap_run PROPERTIES SKIP_RETURN_CODE 77)

# The main job, short: prepare, train on four ranks, generate; and what it leaves behind.
plimsoll_program_test(smoke_run
  COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/programs/smoke_run.py $<TARGET_FILE:plimsoll>
    ${PROJECT_SOURCE_DIR}/configs/smoke.yaml ${CMAKE_CURRENT_BINARY_DIR}/smoke_run -- ${mpirun} 4
  LABELS mpi TIMEOUT 180 SERIAL)

# Generation and export, of a model without biases.
plimsoll_program_test(generate_run
  COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/programs/generate_run.py $<TARGET_FILE:plimsoll>
    ${PROJECT_SOURCE_DIR}/configs/shakespeare_char.yaml ${CMAKE_CURRENT_BINARY_DIR}/generate_run -- ${mpirun} 2
  LABELS mpi TIMEOUT 180 SERIAL)

# Links that were measured, and what is planned and run by them.
plimsoll_program_test(probe_run
  COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/programs/probe_run.py $<TARGET_FILE:plimsoll>
    ${CMAKE_CURRENT_BINARY_DIR}/probe_run -- ${mpirun} 2
  LABELS mpi TIMEOUT 180 SERIAL)

# What a person sees of several ranks: one line per failure, plain lines in files, the plan that train uses.
plimsoll_program_test(under_launcher
  COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/programs/under_launcher.py $<TARGET_FILE:plimsoll>
    ${PROJECT_SOURCE_DIR}/configs/smoke.yaml ${CMAKE_CURRENT_BINARY_DIR}/under_launcher -- ${mpirun} 2
  LABELS mpi TIMEOUT 180 SERIAL)

# Ranks that were started differently; one that hangs, and many that are only slow.
foreach(case IN ITEMS handshake hang hang_mesh hang_pipeline hang_evaluation hang_save hang_load oversubscribed)
  plimsoll_program_test(control_run.${case}
    COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/programs/control_run.py ${case} $<TARGET_FILE:plimsoll>
      ${PROJECT_SOURCE_DIR}/configs/smoke.yaml ${CMAKE_CURRENT_BINARY_DIR}/control_run_${case} -- ${mpirun}
    LABELS mpi TIMEOUT 180 SERIAL)
endforeach()

# Without a compiler the CUDA backend is refused, in words.
plimsoll_program_test(cuda_needs_nvcc
  COMMAND ${CMAKE_COMMAND} -E env CUDACXX=/nowhere/nvcc
    ${CMAKE_COMMAND} --fresh -S ${PROJECT_SOURCE_DIR} -B ${CMAKE_CURRENT_BINARY_DIR}/cuda -G Ninja -DPLIMSOLL_CUDA=ON
  LABELS unit TIMEOUT 120)
set_tests_properties(cuda_needs_nvcc PROPERTIES PASS_REGULAR_EXPRESSION "PLIMSOLL_CUDA=ON needs nvcc")

# Without a library the CUDA backend is built, and what that costs is said.
if(PLIMSOLL_CUDA)
  plimsoll_program_test(cuda_without_libraries
    COMMAND ${CMAKE_COMMAND} --fresh -S ${PROJECT_SOURCE_DIR} -B ${CMAKE_CURRENT_BINARY_DIR}/cuda_without_libraries -G Ninja
      -DPLIMSOLL_CUDA=ON -DCMAKE_CUDA_COMPILER=${CMAKE_CUDA_COMPILER} -DNCCL_INCLUDE= -DCUDNN_INCLUDE=
    LABELS cuda TIMEOUT 120)
  set_tests_properties(cuda_without_libraries PROPERTIES PASS_REGULAR_EXPRESSION "NCCL .*not[ \n]+found.*cuDNN .*not[ \n]+found")
endif()

# Where no GPU is visible, what needs one says so.
plimsoll_program_test(smoke_gpu_without_gpu
  COMMAND ${CMAKE_COMMAND} -E env CUDA_VISIBLE_DEVICES= bash -c "\"$0\" --gpu && exit 1 || test $? = 69"
    ${PROJECT_SOURCE_DIR}/scripts/smoke.sh
  LABELS unit TIMEOUT 60)

# The scripts for GPUs and long benchmarks, among fakes: how many GPUs are visible, what was skipped, what a failure leaves.
plimsoll_program_test(scripts_run
  COMMAND Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/programs/scripts_run.py ${PROJECT_SOURCE_DIR}/scripts
    ${CMAKE_CURRENT_BINARY_DIR}/scripts_run
  LABELS unit TIMEOUT 300)

# A build with CUDA where no GPU is visible: it trains on the CPU, and says why not on a GPU.
set(cuda_run Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/programs/cuda_run.py)
if(PLIMSOLL_CUDA)
  plimsoll_program_test(cuda_run.without_gpu
    COMMAND ${cuda_run} without_gpu $<TARGET_FILE:plimsoll> ${CMAKE_CURRENT_BINARY_DIR}/cuda_run_without_gpu -- ${mpirun} 2
    LABELS cuda TIMEOUT 120 SERIAL)
endif()

# On a GPU, or an emulated one. Each program ends with 77 where there is none, before it begins; 69, of a device that fails, fails.
function(plimsoll_gpu_test name)
  plimsoll_program_test(${name} ${ARGN} LABELS ${gpu_label} TIMEOUT ${timeout} SERIAL)
  set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77)
endfunction()
if(PLIMSOLL_CUDA OR PLIMSOLL_EMULATED_CUDA)
  # The reference models, in every precision and on ranks that share the GPU: NCCL where each has one of its own.
  set(golden_folders)
  foreach(json IN LISTS goldens)
    get_filename_component(folder ${json} DIRECTORY)
    list(APPEND golden_folders ${folder})
  endforeach()
  foreach(precision IN ITEMS fp32 bf16 fp16)
    plimsoll_gpu_test(golden.cuda.${precision} COMMAND golden_check --device=cuda --precision=${precision} ${golden_folders})
  endforeach()
  # Sizes of the others are no multiples of 16.
  plimsoll_gpu_test(golden.cuda.fp8
    COMMAND golden_check --device=cuda --precision=fp8 ${CMAKE_CURRENT_SOURCE_DIR}/golden/gpt2_erf)
  set_tests_properties(golden.cuda.fp8 PROPERTIES SKIP_REGULAR_EXPRESSION "linears need a GPU of compute capability")
  foreach(case IN ITEMS "2:--zero=1" "2:--tensor=2" "2:--tensor=2 --sequence" "2:--pipeline=2" "2:--precision=bf16 --zero=2" "4:--tensor=2 --zero=3" "4:--pipeline=2 --zero=1")
    string(REGEX MATCH "^([0-9]+):(.*)$" _ "${case}")
    set(ranks ${CMAKE_MATCH_1})
    separate_arguments(options UNIX_COMMAND "${CMAKE_MATCH_2}")
    string(REGEX REPLACE "[^a-z0-9]+" "_" label "${CMAKE_MATCH_2}")
    set(folders ${golden_folders})
    if("--sequence" IN_LIST options)  # sequences of the others are odd
      list(FILTER folders INCLUDE REGEX llama_linear_rope)
    endif()
    set(shown)
    if(ranks EQUAL 4)  # where there are several GPUs, four ranks share the first all the same
      set(shown bash -c [[all=${CUDA_VISIBLE_DEVICES-0} && CUDA_VISIBLE_DEVICES=${all%%,*} exec "$0" "$@"]])
    endif()
    plimsoll_gpu_test(golden.cuda.${ranks}_ranks${label}
      COMMAND ${shown} ${mpirun} ${ranks} $<TARGET_FILE:golden_check> --device=cuda ${options} ${folders})
  endforeach()
endif()
if(PLIMSOLL_CUDA)
  # A run within a budget, beside what the driver says that the process has of the device.
  plimsoll_gpu_test(cuda_run.budget
    COMMAND ${cuda_run} budget $<TARGET_FILE:plimsoll> ${CMAKE_CURRENT_BINARY_DIR}/cuda_run_budget)
endif()

# On a GPU, under compute-sanitizer: a reference model in two precisions (fused attention and our own), launched and replayed.
set(sanitizer_run Python3::Interpreter ${CMAKE_CURRENT_SOURCE_DIR}/programs/sanitizer_run.py)
plimsoll_program_test(sanitizer_run_self_test COMMAND ${sanitizer_run} --self-test ${CMAKE_CURRENT_BINARY_DIR}/sanitizer_run
  LABELS unit TIMEOUT 60)
if(PLIMSOLL_CUDA)
  foreach(tool IN ITEMS memcheck racecheck)
    foreach(precision IN ITEMS fp32 bf16)
      plimsoll_program_test(sanitizer.${tool}.${precision}
        COMMAND ${sanitizer_run} ${tool} $<TARGET_FILE:golden_check> --device=cuda --precision=${precision}
          ${CMAKE_CURRENT_SOURCE_DIR}/golden/qwen3_tied
        LABELS gpu TIMEOUT 1200 SERIAL)
      set_tests_properties(sanitizer.${tool}.${precision} PROPERTIES SKIP_RETURN_CODE 77)
    endforeach()
  endforeach()
endif()

# The installed package: another project finds it, compiles against it and runs.
plimsoll_program_test(install
  COMMAND ${CMAKE_COMMAND} -DBUILD=${PROJECT_BINARY_DIR} -DCONSUMER=${CMAKE_CURRENT_SOURCE_DIR}/install
    -DWORK=${CMAKE_CURRENT_BINARY_DIR}/install -DCOMPILER=${CMAKE_CXX_COMPILER}
    -P ${CMAKE_CURRENT_SOURCE_DIR}/install/check.cmake
  LABELS house TIMEOUT 300 SERIAL)
