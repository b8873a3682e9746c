"""GLSL of the renderer. Light is added up linearly and shown with a gamma of 2.

``SCENE`` writes color (with the segmentation id as its alpha) and depth, ``SHADOW`` the depth
seen from the main light, ``RESOLVE`` turns what ``SCENE`` drew into the image, without jaggies.
"""

from __future__ import annotations

import math

MAX_MATRICES = 264
"""Links and bodies of a scene, bounded by 8-bit segmentation ids: 11 links + 253 bodies."""

_DISC = [
    (
        0.007 * math.sqrt((i + 0.5) / 16) * math.cos(2.4 * i),
        0.007 * math.sqrt((i + 0.5) / 16) * math.sin(2.4 * i),
    )
    for i in range(16)
]
"""Points spread evenly over a disc, in widths of the shadow map: how soft shadows are."""

_POSES = f"""#version 330
layout(std140) uniform Poses {{ vec4 rows[{3 * MAX_MATRICES}]; }};  // three rows a body
"""

_BACKGROUND = """
// What is seen in a direction where there is nothing; gamma 2.
vec3 background(float up) {
    return mix(vec3(0.93, 0.935, 0.94), vec3(0.76, 0.79, 0.83), clamp(1.5 * up + 0.1, 0.0, 1.0));
}
"""

SCENE_VERTEX = (
    _POSES
    + """
uniform mat4 view_projection;
in vec3 position;
in vec3 normal;
in vec3 color;
in int body;
out vec3 v_position;
out vec3 v_normal;
out vec3 v_place;  // in the body's own frame
flat out vec4 v_paint;  // color, and the segmentation id

void main() {
    vec4 x = rows[3 * body], y = rows[3 * body + 1], z = rows[3 * body + 2];
    vec4 p = vec4(position, 1.0);
    v_place = position;
    v_position = vec3(dot(x, p), dot(y, p), dot(z, p));
    v_normal = vec3(dot(x.xyz, normal), dot(y.xyz, normal), dot(z.xyz, normal));
    v_paint = vec4(color, float(max(body - 9, 1)) / 255.0);  // links are 1, bodies 2 and on
    gl_Position = view_projection * vec4(v_position, 1.0);
}
"""
)

_SCENE_FRAGMENT = (
    f"""#version 330
{_BACKGROUND}
"""
    + """
uniform vec3 key_direction;
uniform float brightness;
uniform float texture_contrast;
uniform float pattern;
uniform vec3 eye;
uniform vec2 center;
in vec3 v_position;
in vec3 v_normal;
in vec3 v_place;
flat in vec4 v_paint;
layout(location = 0) out vec4 out_color;
layout(location = 1) out float out_depth;

const vec3 FILL = normalize(vec3(-0.75, 0.55, 0.45));
const vec3 KEY_COLOR = vec3(0.70, 0.68, 0.64);
const vec3 FILL_COLOR = vec3(0.13, 0.145, 0.17);
const vec3 SKY = vec3(0.42, 0.435, 0.46);
const vec3 GROUND = vec3(0.17, 0.16, 0.15);

SHADOW_FUNCTION

float scatter(vec3 cell) {
    return fract(sin(dot(cell, vec3(12.9898, 78.233, 37.719)) + pattern) * 43758.5453);
}

// From -1 to 1, smooth between the corners of cells of a unit's size.
float noise(vec3 p) {
    vec3 cell = floor(p), t = p - cell;
    t *= t * (3.0 - 2.0 * t);
    float sum = 0.0;
    for (int i = 0; i < 8; ++i) {
        vec3 corner = vec3(i & 1, (i >> 1) & 1, i >> 2);
        vec3 near = mix(1.0 - t, t, corner);
        sum += near.x * near.y * near.z * scatter(cell + corner);
    }
    return 2.0 * sum - 1.0;
}

void main() {
    vec3 to_eye = normalize(eye - v_position);
    vec3 n = normalize(v_normal);
    float facing = dot(n, to_eye);
    float key = max(dot(n, key_direction), 0.0) * key_light(n);
    float fill = max(dot(n, FILL), 0.0);
    vec3 light = mix(GROUND, SKY, 0.5 + 0.5 * n.z) + key * KEY_COLOR + fill * FILL_COLOR;

    float shine = max(dot(n, normalize(key_direction + to_eye)), 0.0);
    shine *= shine; shine *= shine; shine *= shine; shine *= shine; shine *= shine;  // to the 32nd
    float grazing = 1.0 - abs(facing);
    grazing *= grazing; grazing *= grazing;
    vec3 paint = v_paint.rgb;
    if (texture_contrast > 0.0 && v_paint.a > 1.5 / 255.0)  // not the robot
        paint *= 1.0 + texture_contrast
            * (0.6 * noise(15.0 * v_place) + 0.4 * noise(60.0 * v_place));
    vec3 lit = paint * light + 0.10 * shine * key + 0.08 * grazing * SKY;
    vec3 color = sqrt(brightness * lit);

    // Far from the robot everything pales into the background, as a large table's far edge does.
    float away = smoothstep(0.4, 2.0, length(v_position.xy - center));
    color = mix(color, background(-to_eye.z), 0.6 * away);
    out_color = vec4(min(color, 1.0), v_paint.a);
    out_depth = 1.0 / gl_FragCoord.w;
}
"""
)

SCENE_FRAGMENT = _SCENE_FRAGMENT.replace(
    "SHADOW_FUNCTION", "float key_light(vec3 normal) { return 1.0; }"
)
SCENE_SHADOW_FRAGMENT = _SCENE_FRAGMENT.replace(
    "SHADOW_FUNCTION",
    "const vec2 DISC[16] = vec2[]("
    + ", ".join(f"vec2({x:.6f}, {y:.6f})" for x, y in _DISC)
    + """);
uniform mat4 light_matrix;
uniform sampler2DShadow shadow_map;
uniform bool fine;

// Share of the key light that arrives: percentage-closer filtering over a disc.
float key_light(vec3 normal) {
    vec3 p = (light_matrix * vec4(v_position + 0.003 * normal, 1.0)).xyz * 0.5 + 0.5;
    if (any(lessThan(p, vec3(0.0))) || any(greaterThan(p, vec3(1.0)))) return 1.0;
    // The disc lies in the surface's own plane, or the surface would shade itself.
    vec3 n = mat3(light_matrix) * normal;
    vec2 slope = clamp(n.xy / max(-n.z, 1e-4), -3.0, 3.0);
    // The four texels that make a fine pixel share the disc's points.
    ivec2 texel = ivec2(gl_FragCoord.xy) & 1;
    int first = fine ? texel.x + 2 * texel.y : 0, stride = fine ? 4 : 2;
    float sum = 0.0;
    for (int i = first; i < 16; i += stride)
        sum += texture(shadow_map, vec3(p.xy + DISC[i], p.z + dot(DISC[i], slope)));
    return sum * float(stride) / 16.0;
}
""",
)

SHADOW_VERTEX = (
    _POSES
    + """
uniform mat4 light_matrix;
in vec3 position;
in int body;

void main() {
    vec4 p = vec4(position, 1.0);
    vec4 x = rows[3 * body], y = rows[3 * body + 1], z = rows[3 * body + 2];
    vec3 world = vec3(dot(x, p), dot(y, p), dot(z, p));
    gl_Position = light_matrix * vec4(world, 1.0);
}
"""
)

SHADOW_FRAGMENT = """#version 330
void main() {}
"""

RESOLVE_VERTEX = """#version 330
void main() {  // one triangle over the whole image
    gl_Position = vec4(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0, 0.0, 1.0);
}
"""

_RESOLVE_HEAD = (
    """#version 330
uniform sampler2D colors;
uniform sampler2D depths;
uniform mat3 pixel_ray;  // from pixel coordinates to a direction in the world
layout(location = 0) out vec4 out_color;
layout(location = 1) out float out_depth;
"""
    + _BACKGROUND
    + """
vec3 seen(vec4 color) {
    float up = normalize(pixel_ray * vec3(gl_FragCoord.xy, 1.0)).z;
    return color.a == 0.0 ? background(up) : color.rgb;
}
"""
)

SMOOTH_FRAGMENT = (
    _RESOLVE_HEAD
    + """
// Each pixel was drawn once. Where colors jump, average along the edge, not across it.
float largest(vec3 v) { return max(v.r, max(v.g, v.b)); }

void main() {
    ivec2 pixel = ivec2(gl_FragCoord.xy), last = textureSize(colors, 0) - 1;
    vec4 texel = texelFetch(colors, pixel, 0);
    vec3 here = seen(texel);
    vec3 row = seen(texelFetch(colors, ivec2(min(pixel.x + 1, last.x), pixel.y), 0))
             + seen(texelFetch(colors, ivec2(max(pixel.x - 1, 0), pixel.y), 0));
    vec3 column = seen(texelFetch(colors, ivec2(pixel.x, min(pixel.y + 1, last.y)), 0))
                + seen(texelFetch(colors, ivec2(pixel.x, max(pixel.y - 1, 0)), 0));
    float bend_x = largest(abs(row - 2.0 * here)), bend_y = largest(abs(column - 2.0 * here));
    vec3 along = mix(column, row, bend_y / (bend_x + bend_y + 1e-4)) * 0.5;
    float share = 0.5 * smoothstep(0.04, 0.16, max(bend_x, bend_y));
    out_color = vec4(mix(here, along, share), texel.a);
    out_depth = texelFetch(depths, pixel, 0).r;
}
"""
)

AVERAGE_FRAGMENT = (
    _RESOLVE_HEAD
    + """
// Each pixel was drawn as 2 x 2. Colours are averaged, ids never, depths within one surface.
void main() {
    ivec2 corner = 2 * ivec2(gl_FragCoord.xy);
    vec4 first = texelFetch(colors, corner, 0);
    float z = texelFetch(depths, corner, 0).r;
    vec3 sum = vec3(0.0);
    vec2 depth = vec2(0.0);
    for (int i = 0; i < 4; ++i) {
        ivec2 texel = corner + ivec2(i & 1, i >> 1);
        vec4 c = texelFetch(colors, texel, 0);
        float d = texelFetch(depths, texel, 0).r;
        sum += seen(c);
        if (c.a == first.a && abs(d - z) <= 0.02 * z) depth += vec2(d, 1.0);
    }
    out_color = vec4(0.25 * sum, first.a);
    out_depth = depth.x / depth.y;
}
"""
)
