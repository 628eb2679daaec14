"""The tabletop's MuJoCo scene as MJCF text, built of primitive geoms."""

TIMESTEP = 0.005  # s
MAX_OBJECT = 0.030  # m, largest half-size; geoms are compiled at it, so that bounding volumes stay valid
FINGER_TRAVEL = 0.043  # m each finger slides from open to closed
TABLE_HALF = 0.225  # m
DISTRACTORS = 3
MATERIALS = ("plain", "checks", "squares", "fade", "speckle", "grid")

# Collision bits: 1 objects and table, 2 gripper, 4 the unseen walls above the rim, which only objects meet.
_HEAD = """
<mujoco model="tabletop">
  <option timestep="{timestep}" integrator="implicitfast" cone="elliptic" impratio="10" iterations="20"/>
  <size memory="4M"/>
  <visual>
    <quality shadowsize="0" offsamples="0" numslices="16" numstacks="8" numquads="1"/>
    <map znear="0.05" zfar="5"/>
  </visual>
  <statistic extent="1" center="0 0 0"/>
  <asset>
    <texture name="checks" type="2d" builtin="checker" rgb1="1 1 1" rgb2=".72 .72 .72" width="64" height="64"/>
    <texture name="fade" type="2d" builtin="gradient" rgb1="1 1 1" rgb2=".55 .55 .55" width="64" height="64"/>
    <texture name="speckle" type="2d" builtin="flat" mark="random" random=".12" rgb1="1 1 1"
      markrgb=".55 .55 .55" width="64" height="64"/>
    <texture name="grid" type="2d" builtin="flat" mark="edge" rgb1="1 1 1" markrgb=".6 .6 .6" width="32" height="32"/>
    <material name="plain" specular="0"/>
    <material name="checks" texture="checks" texrepeat="4 4" specular="0"/>
    <material name="squares" texture="checks" texrepeat="2 2" specular="0"/>
    <material name="fade" texture="fade" specular="0"/>
    <material name="speckle" texture="speckle" specular="0"/>
    <material name="grid" texture="grid" texrepeat="6 6" specular="0"/>
  </asset>
  <default>
    <geom friction="0.7 0.005 0.0001" solref="0.01 1" solimp="0.98 0.995 0.001"/>
    <default class="arm"><geom contype="0" conaffinity="0" mass="0.05"/></default>
    <default class="grip"><geom type="box" contype="2" conaffinity="1" mass="0.05" condim="4"
      friction="1.5 0.02 0.0001" priority="1" solref="0.015 1" solimp="0.95 0.98 0.001"/></default>
    <default class="see"><geom contype="0" conaffinity="0" mass="0"/></default>
    <default class="slide"><joint type="slide" damping="1" armature="0.1"/></default>
    <default class="hinge"><joint type="hinge" damping="0.01" armature="0.01"/></default>
    <default class="wall"><geom type="box" contype="4" conaffinity="0" rgba="0 0 0 0"/></default>
  </default>
  <worldbody>
    <light name="lamp" directional="true" castshadow="false" pos="0 0 1" dir="0 0 -1"/>
    <camera name="front" pos="0 -0.6 1" fovy="28"/>
    <geom name="floor" class="see" type="box" pos="0 0 -0.5" size="3 3 0.02"/>
    <geom name="table" type="box" pos="0 0 -0.02" size="{table} {table} 0.02" contype="1" conaffinity="3"/>
    <geom name="rim_l" class="see" type="box" pos="-{rim} 0 0.008" size="0.006 {table} 0.008"/>
    <geom name="rim_r" class="see" type="box" pos="{rim} 0 0.008" size="0.006 {table} 0.008"/>
    <geom name="rim_f" class="see" type="box" pos="0 -{rim} 0.008" size="{table} 0.006 0.008"/>
    <geom name="rim_b" class="see" type="box" pos="0 {rim} 0.008" size="{table} 0.006 0.008"/>
    <geom class="wall" pos="-{rim} 0 0.25" size="0.006 {table} 0.25"/>
    <geom class="wall" pos="{rim} 0 0.25" size="0.006 {table} 0.25"/>
    <geom class="wall" pos="0 -{rim} 0.25" size="{table} 0.006 0.25"/>
    <geom class="wall" pos="0 {rim} 0.25" size="{table} 0.006 0.25"/>
"""

# The gantry: column (x) > boom (y) > spindle and wrist (z, then hinges z, y, x at the fingertips, so that the joint
# values are the extrinsic xyz Euler angles). The drop shadow rides on the y stage: it shows where the fingertips
# are over the table, which real shadows would, at a thirtieth of the cost.
_ARM = """
    <body name="column" gravcomp="1">
      <joint name="x" class="slide" axis="1 0 0"/>
      <geom name="post" class="arm" type="box" pos="0 0.38 0.18" size="0.022 0.022 0.24"/>
      <body name="boom" gravcomp="1">
        <joint name="y" class="slide" axis="0 1 0"/>
        <geom name="beam" class="arm" type="box" pos="0 0.26 0.42" size="0.013 0.28 0.012"/>
        <geom name="shadow" class="see" type="cylinder" pos="0 0 0.0006" size="0.042 0.0005" rgba="0 0 0 .6"/>
        <body name="wrist" gravcomp="1">
          <joint name="z" class="slide" axis="0 0 1"/>
          <geom name="spindle" class="arm" type="cylinder" pos="0 0 0.25" size="0.014 0.13"/>
          <body name="hand" gravcomp="1">
            <joint name="rz" class="hinge" axis="0 0 1"/>
            <joint name="ry" class="hinge" axis="0 1 0"/>
            <joint name="rx" class="hinge" axis="1 0 0"/>
            <geom name="palm" class="grip" pos="0 0 0.100" size="0.060 0.020 0.026"/>
            <body name="finger_l" gravcomp="1">
              <joint name="fl" class="slide" axis="1 0 0" range="0 {travel}" limited="true"/>
              <geom name="pad_l" class="grip" pos="-0.057 0 0.037" size="0.014 0.020 0.037"/>
            </body>
            <body name="finger_r" gravcomp="1">
              <joint name="fr" class="slide" axis="-1 0 0" range="0 {travel}" limited="true"/>
              <geom name="pad_r" class="grip" pos="0.057 0 0.037" size="0.014 0.020 0.037"/>
            </body>
          </body>
        </body>
      </body>
    </body>
"""

_OBJECT = """
    <body name="object{i}" pos="0 0 {half}">
      <freejoint/>
      <inertial pos="0 0 0" mass="0.1" diaginertia="5e-5 5e-5 5e-5"/>
      <geom name="object{i}" type="box" size="{half} {half} {half}" contype="1" conaffinity="7" condim="4"/>
    </body>
"""

_ACTUATORS = """
  </worldbody>
  <actuator>
    <position joint="x" kp="5000" kv="110" forcerange="-20 20"/>
    <position joint="y" kp="5000" kv="110" forcerange="-20 20"/>
    <position joint="z" kp="5000" kv="110" forcerange="-10 10"/>
    <position joint="rz" kp="60" kv="1.5" forcerange="-4 4"/>
    <position joint="ry" kp="60" kv="1.5" forcerange="-4 4"/>
    <position joint="rx" kp="60" kv="1.5" forcerange="-4 4"/>
    <position joint="fl" kp="400" kv="9"/>
    <position joint="fr" kp="400" kv="9"/>
  </actuator>
</mujoco>
"""


def mjcf(num_objects: int) -> str:
    """The scene as MJCF text, with `num_objects` free objects. Units: m, kg, s; x right, y away, z up."""
    rim = TABLE_HALF - 0.02
    parts = [_HEAD.format(timestep=TIMESTEP, table=TABLE_HALF, rim=rim), _ARM.format(travel=FINGER_TRAVEL)]
    parts += [_OBJECT.format(i=i, half=MAX_OBJECT) for i in range(num_objects)]
    for i in range(DISTRACTORS):  # a yaw at compile time keeps MuJoCo from treating the geom as axis-aligned
        parts.append(
            f'<geom name="distractor{i}" class="see" type="box" size=".05 .05 .05" euler="0 0 {20 * i + 15}"/>'
        )
    return "".join(parts) + _ACTUATORS
