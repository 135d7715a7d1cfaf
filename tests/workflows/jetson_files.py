"""Files of Jetson boards as JetPack lays them out, for programs that read them."""

from pathlib import Path

FILES = {
    "orin": {
        "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, "
        "EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n# KERNEL_VARIANT: oot\n",
        "var/lib/nvpmodel/status": "pmode:0003\n",
        "etc/nvpmodel.conf": "# MAXN is the NONE power model\n< POWER_MODEL ID=0 NAME=MAXN >\n"
        "CPU_ONLINE CORE_0 1\n< POWER_MODEL ID=3 NAME=MODE_50W >\nCPU_ONLINE CORE_0 1\n",
        **{
            f"sys/class/hwmon/hwmon3/{name}": text
            for name, text in {
                "name": "ina3221",
                "in1_label": "VDD_GPU_SOC",
                "in1_input": "19048",
                "curr1_input": "248",
                "in2_label": "VDD_CPU_CV",
                "in2_input": "19056",
                "curr2_input": "120",
                "in3_label": "VIN_SYS_5V0",
                "in3_input": "5040",
                "curr3_input": "760",
                "in7_label": "sum of shunt voltages",
            }.items()
        },
        **{
            f"sys/class/hwmon/hwmon4/{name}": text
            for name, text in {
                "name": "ina3221",
                "in1_label": "NC",
                "in1_input": "0",
                "curr1_input": "0",
                "in2_label": "VDDQ_VDD2_1V8AO",
                "in2_input": "5032",
                "curr2_input": "100",
                "in3_label": "NC",
            }.items()
        },
        "sys/class/hwmon/hwmon5/name": "soctherm_oc",
        "sys/class/hwmon/hwmon5/oc1_event_cnt": "1",
        "sys/class/hwmon/hwmon5/oc2_event_cnt": "0",
        "sys/class/hwmon/hwmon5/oc3_event_cnt": "27",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
        "sys/class/thermal/thermal_zone0/temp": "48500",
        "sys/class/thermal/thermal_zone1/type": "gpu-thermal",
        "sys/class/thermal/thermal_zone1/temp": "-2000",
        "sys/class/thermal/thermal_zone2/type": "cv0-thermal",
        "sys/class/devfreq/17000000.gpu/cur_freq": "612000000",
        "sys/class/devfreq/17000000.gpu/min_freq": "306000000",
        "sys/class/devfreq/17000000.gpu/max_freq": "1300500000",
        "sys/class/devfreq/17000000.gpu/governor": "nvhost_podgov",
        "sys/class/devfreq/15340000.vic/cur_freq": "115200000",
        "sys/devices/platform/gpu.0/load": "437",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "2201600",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_min_freq": "2201600",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "2201600",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "schedutil",
        "proc/meminfo": "MemTotal:       64348800 kB\nMemFree:        50000000 kB\n"
        "MemAvailable:   48261600 kB\nSwapTotal:      32174400 kB\nSwapFree:       32174400 kB\n",
        "proc/stat": "cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 100 0 50 800 50 0 0 0 0 0\n",
        "etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
        "opt/ros/humble/setup.bash": "",
    },
    "thor": {
        "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
        "etc/nv_tegra_release": "# R39 (release), REVISION: 2.0, GCID: 1, BOARD: generic\n",
        "var/lib/dpkg/status": "Package: nvidia-jetpack-runtime\nVersion: 9.9\n\n"
        "Package: nvidia-jetpack\nStatus: install ok installed\nPriority: standard\n"
        "Version: 7.2-b100+x\nDescription: NVIDIA Jetpack\n",
        "var/lib/nvpmodel/status": "pmode:0000",
        "sys/class/hwmon/hwmon1/name": "ina238",
        "sys/class/hwmon/hwmon1/label": "VIN",
        "sys/class/hwmon/hwmon1/power1_input": "41250000",
        **{
            f"sys/class/hwmon/hwmon2/{name}": text
            for name, text in {
                "name": "ina3221",
                "in1_label": "VDD_GPU",
                "in1_input": "20000",
                "curr1_input": "300",
                "in2_label": "VDD_CPU_SOC_MSS",
                "in2_input": "20000",
                "curr2_input": "325",
                "in3_label": "VIN_SYS_5V0",
                "in3_input": "5000",
                "curr3_input": "1304",
            }.items()
        },
        "sys/class/thermal/thermal_zone0/type": "tj-thermal",
        "sys/class/thermal/thermal_zone0/temp": "59400",
        "sys/class/devfreq/gpu-gpc-0/cur_freq": "1575000000",
        "sys/class/devfreq/gpu-gpc-0/min_freq": "1575000000",
        "sys/class/devfreq/gpu-gpc-0/max_freq": "1575000000",
        "sys/class/devfreq/bwmgr/cur_freq": "4266000000",
    },
}


def write_files(root: Path, board: str) -> Path:
    """Write the files of a board below `root`, and return it."""
    for name, text in FILES[board].items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if board == "orin":  # a zone that is switched off cannot be read
        (root / "sys/class/thermal/thermal_zone2/temp").mkdir()
    return root
